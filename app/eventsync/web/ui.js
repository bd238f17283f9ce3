// The dashboard's view library: preact and htm, as they were vendored. Text from the database becomes text nodes only.

import { Fragment, h, render } from "./preact.js";
import { useCallback, useEffect, useMemo, useRef, useState } from "./preact_hooks.js";
import htm from "./htm.js";

export const html = htm.bind(h);
export { Fragment, render, useCallback, useEffect, useMemo, useRef, useState };
