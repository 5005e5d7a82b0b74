"""`orqal doctor`: what is wrong with an Orqal.

facts.py     the facts that are collected about a cluster and its machines
findings.py  what the doctor reports
rules.py     which findings the facts lead to
machine.py   the facts about one machine, and what can be mended on it
"""
