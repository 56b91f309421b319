import { expect, test } from "vitest";

import { fromFragment, toFragment } from "../page/share.js";
import { InputError } from "../src/index.js";

test("a link holds any bytes", () => {
  for (const length of [0, 1, 2, 3, 700]) {
    const bytes = Uint8Array.from({ length }, (_, n) => (n * 37 + 200) % 256);
    const fragment = toFragment(bytes);
    expect(fragment).toMatch(/^#spt=[A-Za-z0-9_-]*$/);
    expect(fromFragment(fragment)).toEqual(bytes);
  }
});

test("other fragments are none, and damaged ones are refused", () => {
  expect(fromFragment("")).toBeUndefined();
  expect(fromFragment("#talk")).toBeUndefined();
  for (const text of ["A", "a b", "<b>", "A".repeat(12_001)]) expect(() => fromFragment(`#spt=${text}`)).toThrow(InputError);
});
