# A single module cannot say that it is typed (PEP 561); this stub package says it for `plugbus.py`.
from contracts import *

__version__: str

def check_packages() -> None: ...
def main() -> None: ...
