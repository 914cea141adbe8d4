"""python -m wl.simulate"""
from .simulate import command

command()
