"""``python -m neuroalign``: the same as the ``neuroalign`` command."""

from neuroalign.cli import main

if __name__ == "__main__":
    main()
