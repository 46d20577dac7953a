"""What optimum-cli imports on every call; nothing heavy comes with it."""

from sinkquant.integrations.optimum_register import REGISTER_COMMANDS as REGISTER_COMMANDS
