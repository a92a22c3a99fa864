// Judge an AsyncAPI document with the standard's own parser: `node check.mjs FILE`. Ends with 1 for any finding.
import { readFileSync } from "node:fs";
import { Parser } from "@asyncapi/parser";

const { document, diagnostics } = await new Parser().parse(readFileSync(process.argv[2], "utf8"));
// 3.1.0 is recommended over 3.0.0; that is no fault of the document.
const found = diagnostics.filter((one) => one.code !== "asyncapi-latest-version");
for (const one of found) {
  console.log(`severity ${one.severity} ${one.code} at ${one.path.join("/")}: ${one.message}`);
}
const channels = document?.channels().all().length ?? 0;
const operations = document?.operations().all().length ?? 0;
console.log(`${channels} channels, ${operations} operations, ${found.length} findings`);
process.exit(document && channels && !found.length ? 0 : 1);
