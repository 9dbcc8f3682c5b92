"""One Python function for each verb of the command line."""

import pocketvit.report

# Importing the room of that name set it as an attribute of the package; without it `pocketvit.report` is the verb.
del pocketvit.report
