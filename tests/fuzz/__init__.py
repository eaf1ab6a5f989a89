"""The fuzz suite: altered inputs against moir-edge, each in a process of its own with limits.

An input may be refused with one line or accepted. A traceback, a hang, a signal, too much memory and an unnoticed alteration are faults.
"""
