"""Print the JSON schema: ``python -m unet.config > configs/schema.json``."""

import json

from unet.config import json_schema

print(json.dumps(json_schema(), indent=2, ensure_ascii=False))
