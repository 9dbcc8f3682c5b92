"""What a run is made of: its context, its arms, and the stages that train, test and compare them."""
