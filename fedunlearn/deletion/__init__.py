"""A deletion request's life on the device, from its filing to the receipt.

Reading order: ``request`` (its states) -> ``inbox`` (what people file) and ``schedule`` (what an experiment
plans or draws) -> ``admission`` (accepted or refused) -> ``request_store`` -> ``purge`` -> ``receipts``.
``schedule_check`` finds impossible schedules before a run starts.
"""
