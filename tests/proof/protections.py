"""What protects from each fault, as edits that take the protection away, and the tests that must then fail.

Data alone, by the file of the tests; `prove` applies it.
"""

from proof.of_api import API
from proof.of_crash import CRASH
from proof.of_input import INPUT
from proof.of_lifecycle import LIFECYCLE
from proof.of_order import ORDER
from proof.of_workload import WORKLOAD

PROTECTIONS = (*CRASH, *API, *ORDER, *WORKLOAD, *LIFECYCLE, *INPUT)
