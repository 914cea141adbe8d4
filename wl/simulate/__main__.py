"""python -m wl.simulate"""
from ..core import cli
from .simulate import main

cli.run(main)
