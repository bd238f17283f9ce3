import "fake-indexeddb/auto";
import { storeContract } from "./store_contract.mjs";
import { idb } from "../src/adapters/idb.js";

let names = 0;
const create = () => idb(`test ${(names += 1)}`);

storeContract("idb", create);
