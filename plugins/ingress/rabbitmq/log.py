"""Where this ingress logs."""

import structlog

log = structlog.get_logger("runnerd.ingress.rabbitmq")
