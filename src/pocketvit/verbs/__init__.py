"""One Python function for each verb of the command line."""

import pocketvit.pages

# Importing the room of that name set it as an attribute of the package; without it `pocketvit.pages` is the verb.
del pocketvit.pages
