import { memoryStore } from "../src/store.js";
import { storeContract } from "./store_contract.mjs";

storeContract("memory", memoryStore);
