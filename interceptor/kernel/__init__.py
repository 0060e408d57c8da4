"""The only home of iptc, pyroute2, ctypes and setns: namespaces, rules, sockets."""
