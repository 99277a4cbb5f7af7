"""What messages between server and clients carry.

Reading order: ``phase`` and ``records`` (how weights and settings become records) -> ``update``, ``scalars``
and ``rehearsals`` (what a client sends) -> ``replies`` (how replies are read and refused) -> ``sizes``
(bytes). All that is used of Flower beyond its public interface is in ``flower_internals``.
"""
