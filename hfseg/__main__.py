"""Run the command line as `python -m hfseg`."""

from hfseg.cli import main

if __name__ == "__main__":
    main()
