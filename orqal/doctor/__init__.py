"""The rules, facts and findings of `orqal doctor`, and what can be repaired on one machine.

facts.py     the facts that are collected about a cluster and its machines
findings.py  what the doctor reports
rules.py     which findings the facts lead to
machine.py   the facts about one machine, and what can be repaired on it
"""
