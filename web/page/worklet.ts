import "../src/worklet.js";
