"""The program inside every sandbox. Standard library only, Python 3.9 and newer."""
