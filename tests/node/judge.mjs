// Reads {schemas: {name: schema}, documents: [[name, document]], patterns: [[pattern, [text]]]} from stdin.
// Writes {documents: [whether each is valid], patterns: [[whether each text matches]]}, or fails.
import { readFileSync } from "node:fs";
import Ajv2020 from "ajv/dist/2020.js";
import addFormats from "ajv-formats";

const asked = JSON.parse(readFileSync(0, "utf8"));
// As strict as ajv is where nobody asks for less; a condition (if, then, contains) may leave its type out.
const ajv = new Ajv2020({ strictSchema: true, strictNumbers: true, strictTuples: true, strictTypes: false });
addFormats(ajv);
const validators = Object.fromEntries(
  Object.entries(asked.schemas).map(([name, schema]) => [name, ajv.compile(schema)]),
);
const answer = {
  documents: asked.documents.map(([name, document]) => validators[name](document)),
  patterns: asked.patterns.map(([pattern, texts]) => {
    const expression = new RegExp(pattern, "u");
    return texts.map((text) => expression.test(text));
  }),
};
process.stdout.write(JSON.stringify(answer));
