"""What is wrong with an Orqal: `facts.py` what is collected, `findings.py` what it means, `machine.py` one machine."""
