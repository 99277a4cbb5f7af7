"""A bench of cheating servers: who can tell, at a false-alarm rate that is fixed beforehand.

``cheats`` lists the servers, ``forgeries`` what an operator does to files; ``trial`` plays one run and writes
down what each verifier sees; ``verdicts`` sets thresholds on the choosing seeds and decides; ``bench`` plays
all of them; ``audit_file`` is audit.json.
"""
