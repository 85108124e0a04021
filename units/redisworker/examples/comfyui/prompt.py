#!/usr/bin/env python3
"""Prints a workflow with another text and seed, as the payload of a job:

    prompt.py WORKFLOW.json NODE TEXT [SEED] | gpuherd queue add --wait

WORKFLOW.json is what ComfyUI's menu exports as API format, and NODE the number
of its CLIPTextEncode that TEXT is for.
"""

import json
import sys


def main():
    name, node, text = sys.argv[1:4]
    with open(name, encoding="utf-8") as file:
        workflow = json.load(file)
    workflow[node]["inputs"]["text"] = text
    if len(sys.argv) > 4:
        for part in workflow.values():
            if part["class_type"] == "KSampler":
                part["inputs"]["seed"] = int(sys.argv[4])
    json.dump(workflow, sys.stdout)


if __name__ == "__main__":
    main()
