"""The kinds of spec, declared once; the JSON Schemas in ``policies/schemas`` are made from them."""
