"""URLs as people may see them."""


def shown(urls: str) -> str:
    """URLs, with commas between them, without user, password and options."""
    return ", ".join(_without_user(each.strip()) for each in urls.split(","))


def _without_user(url: str) -> str:
    scheme, _, rest = url.rpartition("://")
    authority, slash, path = rest.partition("/")
    return f"{scheme or 'amqp'}://{authority.rpartition('@')[2]}{slash}{path.partition('?')[0]}"
