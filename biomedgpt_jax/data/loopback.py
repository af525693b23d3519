"""Whether a host is this machine."""

import ipaddress


def is_loopback(host: str) -> bool:
    """By its name or number alone; no name is looked up. An IPv6 number may stand in brackets."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
