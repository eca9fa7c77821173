"""`python -m flows.cli` is `nightloom`."""

from flows.cli import main

if __name__ == "__main__":
    main()
