"""The experimenter, who sees all: prepares, conducts, records and compares a run.

Reading order: ``preparation`` (gives a ``prepared_run``) -> ``experiment`` (conducts it) -> ``recorder`` and
``record`` (what is kept of it) -> ``references`` (the original and retrained models, kept by
``reference_cache``) -> ``results``. Beside a run: ``background_evaluation``, ``progress``; to resume one:
``checkpoint``, ``folder_check``. Runs played again: ``timeline`` -> ``replay`` with ``replayed_clients`` ->
``shadows`` (in a ``process_pool``) -> ``analyses``. After a run: ``final_search``, ``kept_original``,
``request_contents``.
"""
