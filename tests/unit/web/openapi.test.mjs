import assert from "node:assert/strict";
import test from "node:test";

import { curlFor, resolve } from "../../../app/eventsync/web/openapi.js";

const DOCUMENT = {
  components: { parameters: { id: { name: "id", in: "path", required: true, example: "a/b" } } },
  paths: {
    "/d/{id}": {
      parameters: [{ $ref: "#/components/parameters/id" }],
      patch: {
        requestBody: { content: { "application/merge-patch+json": { example: { name: "it's" } } } },
        responses: { 200: {} },
      },
    },
    "/s": {
      get: {
        parameters: [
          { name: "shape", in: "query", required: true, example: ["a", "b"] },
          { name: "vector", in: "query", required: false, example: "x" },
        ],
        responses: { 200: { content: { "text/event-stream": {} } } },
      },
    },
    "/w": { get: { responses: { 101: {} } } },
  },
};

test("references are followed", () => {
  assert.equal(resolve(DOCUMENT, { $ref: "#/components/parameters/id" }).example, "a/b");
});

test("a write's curl line has its method, type and body, quoted for a shell", () => {
  const line = curlFor(DOCUMENT, "http://h", "/d/{id}", "patch");
  assert.equal(line, `curl -X PATCH -H 'Content-Type: application/merge-patch+json' -d '{"name":"it'\\''s"}' 'http://h/d/a%2Fb'`);
});

test("a stream is not buffered, and only what is required is asked", () => {
  assert.equal(curlFor(DOCUMENT, "http://h", "/s", "get"), "curl -N 'http://h/s?shape=a&shape=b'");
});

test("a WebSocket is shown by its handshake", () => {
  assert.match(curlFor(DOCUMENT, "http://h", "/w", "get"), /^curl -i -N -H 'Connection: Upgrade' .* 'http:\/\/h\/w'$/);
});
