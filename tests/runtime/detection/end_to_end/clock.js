// Preloaded into the emulator of GitHub: its clock is behind by as many milliseconds as a file says, so that
// a pull request can have been merged before a release that is hours old.
const { readFileSync } = require("node:fs");
const Real = Date;
const now = () => Real.now() - Number(readFileSync(process.env.MODELWAY_CLOCK_FILE, "utf8"));
globalThis.Date = class Date extends Real {
  constructor(...given) {
    if (given.length) super(...given);
    else super(now());
  }
  static now() {
    return now();
  }
};
