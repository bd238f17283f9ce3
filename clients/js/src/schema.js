// The types of an application's data: what its collections and its declared shapes hold. Nothing is here at run time.
//
//   interface Kanban {
//     collections: { cards: Card };
//     shapes: { my_cards: { collection: "cards"; parameters: { board: string } } };
//   }
//   const db = createClient<Kanban>({ url });

/**
 * The type of the documents of each collection by its name, and of each declared shape its collection and its
 * parameters.
 *
 * @typedef {{ collections: object, shapes?: object }} Schema
 */

/**
 * A schema of which nothing is known: every name is one, and documents may be anything.
 *
 * @typedef {{ collections: any, shapes: any }} AnySchema
 */

/** @template {Schema} S @typedef {Extract<keyof S["collections"], string>} CollectionName */

/** @template {Schema} S @typedef {S extends { shapes: infer Shapes } ? Shapes : any} ShapesOf */

/** @template {Schema} S @typedef {Extract<keyof ShapesOf<S>, string>} ShapeName */

/**
 * The type of the documents of a declared shape.
 *
 * @template {Schema} S
 * @template {ShapeName<S>} Name
 * @typedef {ShapesOf<S>[Name] extends { collection: infer Collection extends keyof S["collections"] }
 *   ? S["collections"][Collection]
 *   : any} ShapeDocument
 */

/**
 * The parameters of a declared shape.
 *
 * @template {Schema} S
 * @template {ShapeName<S>} Name
 * @typedef {ShapesOf<S>[Name] extends { parameters: infer Parameters } ? Parameters : Record<string, any>
 * } ShapeParameters
 */

/**
 * The texts of shapes: `cards`, `cards/42`, `my_cards?board=7`.
 *
 * @template {Schema} S
 * @typedef {CollectionName<S> | `${CollectionName<S>}/${string}` | `${ShapeName<S>}?${string}`} ShapeText
 */

/**
 * The type of the documents of the shape of a text.
 *
 * @template {Schema} S
 * @template {string} Text
 * @typedef {Text extends `${infer Name extends ShapeName<S>}?${string}` ? ShapeDocument<S, Name>
 *   : Text extends `${infer Name extends CollectionName<S>}/${string}` ? S["collections"][Name]
 *   : Text extends CollectionName<S> ? S["collections"][Text]
 *   : any} TextDocument
 */

/**
 * A document that is written: its `_id` is made, or is that of the id text.
 *
 * @template Doc
 * @typedef {Doc extends { _id: any } ? Omit<Doc, "_id"> & Partial<Pick<Doc, "_id">> : Doc} NewDocument
 */

/**
 * A value that a patch replaces as a whole: a list, a value of JavaScript, or a wrapper of Extended JSON.
 *
 * @template Value
 * @typedef {Value extends readonly any[] | Date | Uint8Array | { $oid: string } ? true
 *   : keyof Value extends `$${string}` ? true : false} IsWhole
 */

/**
 * A merge patch (RFC 7396) of a document. `null` removes a field, which must be an optional one.
 *
 * @template Doc
 * @typedef {Doc extends object
 *   ? IsWhole<Doc> extends true ? Doc
 *     : { [Name in keyof Doc]?: MergePatch<Doc[Name]> | (undefined extends Doc[Name] ? null : never) }
 *   : Doc} MergePatch
 */

/**
 * What `patch` takes: a merge patch, or a JSON Patch (RFC 6902), which is a list.
 *
 * @template Doc
 * @typedef {MergePatch<Doc> | readonly import("./patch.js").Operation[]} Patch
 */

export {};
