"""The descriptor pool of our messages.

It is not protobuf's default pool, because tritonclient has its own copies of the same messages there, and a name can
be registered only once in a pool. With this one, server and client can live in one process.
"""

from google.protobuf.descriptor_pool import DescriptorPool

POOL = DescriptorPool()
