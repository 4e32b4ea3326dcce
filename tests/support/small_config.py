"""The smallest configuration that a gateway runs on."""

CONFIG = """
[node]
admin_socket = "admin"

[store]
path = "var/gateway.db"

[keys]
keyring = "keyring.json"

[registry]
default_profile = "standard"
ranges = [{ terminals = "R0000001-R0000003", profile = "standard" }]

[[profiles]]
name = "standard"
kinds = ["purchase"]

[[listeners]]
name = "plain"
listen = "127.0.0.1:9000"
security = "plain"
macs = "by_profile"
dialect = "iso87_ascii"

[[upstreams]]
name = "north"
addresses = ["127.0.0.1:9101"]
dialect = "iso87_ascii"
plain = true

[[groups]]
name = "all"
members = [{ upstream = "north" }]

[[routes]]
name = "everything"
group = "all"
"""
