"""The source system's variables that no setting carries yet. They are accepted, and `runnerd check` names each.

The others are named beside their setting, in `Meta(extra={"env": …})`. POD_POOL_<CODE> and LANG_IMAGE_<CODE> are made
from the languages' codes.
"""

LATER = {
    **dict.fromkeys(
        ("ENABLE_HTTPS", "HTTPS_PORT", "SSL_CERTS_PATH", "SSL_CERT_FILE", "SSL_KEY_FILE", "SSL_CA_CERTS", "SSL_REDIRECT"),
        "HTTPS is not served yet: put a proxy with TLS in front",
    ),
    **dict.fromkeys(("API_KEY_CACHE_TTL", "MASTER_API_KEY", "RATE_LIMIT_ENABLED"), "keys are not managed yet"),
    **dict.fromkeys(
        ("ENABLE_NETWORK_ISOLATION", "ENABLE_FILESYSTEM_ISOLATION"),
        "sandboxes are isolated as far as isolation.minimum demands, and never less",
    ),
    **dict.fromkeys(("HEALTH_CHECK_INTERVAL", "HEALTH_CHECK_TIMEOUT"), "health is told when asked, without a timer"),
    "API_RELOAD": "start the daemon again instead",
}
"""Why each has no effect yet, by variable."""
