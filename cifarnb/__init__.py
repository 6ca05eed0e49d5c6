"""cifarnb: CIFAR-10 with a simple CNN, residual networks, and VGG-A with and without batch norm.

The way of the data: ``params/*.yaml`` → ``config`` → ``data`` and ``models`` → ``training`` → ``runs`` on disk →
``figures`` and ``tables`` → notebooks (``sections``, ``execution``) → ``report``.  Importing the package changes
nothing.
"""

__version__ = "0.1.0"
