/**
 * Describes valibot schemas as plain data: for the hash that pins the protocol, and for the tables of
 * docs/PROTOCOL.md. It knows each kind of schema and action by name and throws at one that it does not know, so no
 * part of a schema can change without changing its description.
 */
import { readdirSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'
import type { Json } from '../../protocol/canonical.ts'

export type Shape = Readonly<Record<string, unknown>>
const isShape = (value: unknown): value is Shape => typeof value === 'object' && value !== null && !Array.isArray(value)
const isSchema = (value: unknown): value is Shape => isShape(value) && value['kind'] === 'schema'

export function listOf(value: unknown): readonly unknown[] {
  if (!Array.isArray(value)) throw new Error('a list was expected')
  return value
}

export function entriesOf(schema: unknown): Shape {
  const entries = isShape(schema) ? schema['entries'] : undefined
  if (!isShape(entries)) throw new Error('an object schema was expected')
  return entries
}

/** The schema and the actions of a pipe; a schema without a pipe has no actions. */
export function unpiped(schema: Shape): { readonly base: Shape; readonly actions: readonly unknown[] } {
  if (schema['pipe'] === undefined) return { base: schema, actions: [] }
  const [base, ...actions] = listOf(schema['pipe'])
  if (!isSchema(base)) throw new Error('a pipe begins with a schema')
  return { base, actions }
}

/** The whole of a schema: kinds, strictness, patterns, limits and defaults. */
export function describeSchema(schema: unknown): Json {
  if (!isSchema(schema)) throw new Error(`not a schema: ${String(schema)}`)
  const { base, actions } = unpiped(schema)
  if (base === schema) return describeBase(schema)
  return { base: describeSchema(base), actions: actions.map((action) => describeAction(action)) }
}

function describeBase(schema: Shape): Json {
  const type = String(schema['type'])
  const options = () => listOf(schema['options']).map((option) => plain(option))
  switch (type) {
    case 'string':
    case 'number':
    case 'boolean':
    case 'unknown':
      return { type }
    case 'literal':
      return { type, literal: plain(schema['literal']) }
    case 'array':
      return { type, item: describeSchema(schema['item']) }
    case 'nullable':
    case 'optional':
      return { type, wrapped: describeSchema(schema['wrapped']), default: plain(schema['default'] ?? null) }
    case 'picklist':
    case 'union':
      return { type, options: options() }
    case 'variant':
      return { type, key: plain(schema['key']), options: options() }
    case 'record':
      return { type, key: describeSchema(schema['key']), value: describeSchema(schema['value']) }
    case 'strict_object':
      return { type, entries: plain(entriesOf(schema)) }
    default:
      throw new Error(`describeSchema does not know the schema type ${type}; a loose one has no place in the protocol`)
  }
}

function describeAction(action: unknown): Json {
  if (isSchema(action)) return describeSchema(action)
  if (!isShape(action)) throw new Error('a pipe holds something that is no action')
  const type = String(action['type'])
  return action['requirement'] === undefined ? { type } : { type, requirement: plain(action['requirement']) }
}

/** Constants as data: regular expressions and functions by their source, schemas by their description. */
export function plain(value: unknown): Json {
  if (value === null || typeof value === 'string' || typeof value === 'boolean') return value
  if (typeof value === 'number') return Number.isSafeInteger(value) ? value : String(value)
  if (value instanceof RegExp || typeof value === 'function') return String(value)
  if (Array.isArray(value)) return value.map((item) => plain(item))
  if (isSchema(value)) return describeSchema(value)
  if (isShape(value)) return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, plain(item)]))
  throw new Error(`no description for a value of type ${typeof value}`)
}

/** Every exported value of protocol/ but its functions, by file and name. */
export async function protocolExports(): Promise<Readonly<Record<string, Shape>>> {
  const folder = fileURLToPath(new URL('../../protocol', import.meta.url))
  const files = readdirSync(folder).filter((name) => name.endsWith('.ts') && name !== 'version.ts')
  const found: Record<string, Shape> = {}
  for (const file of files.toSorted()) {
    const module = (await import(pathToFileURL(join(folder, file)).href)) as Shape
    found[file] = Object.fromEntries(Object.entries(module).filter(([, value]) => typeof value !== 'function'))
  }
  return found
}

export type Names = ReadonlyMap<unknown, string>

/** What a schema accepts in a few words: schemas of protocol/ by their exported name, others by their parts. */
export function shortType(schema: unknown, names: Names, isRoot = false): string {
  const name = names.get(schema)
  if (name !== undefined && !isRoot) return name
  if (!isSchema(schema)) throw new Error('not a schema')
  const { base, actions } = unpiped(schema)
  if (base === schema) return shortBase(schema, names)
  // valibot's pipe keeps the schema that it extends as its first part, so a named one keeps its name.
  return [shortType(base, names), ...actions.map((action) => shortAction(action))]
    .filter((text) => text !== '')
    .join(', ')
}

function shortBase(schema: Shape, names: Names): string {
  const inner = (value: unknown) => shortType(value, names)
  const choice = (show: (option: unknown) => string) => listOf(schema['options']).map(show).join(' or ')
  switch (schema['type']) {
    case 'string':
      return 'text'
    case 'literal':
      return JSON.stringify(schema['literal'])
    case 'picklist':
      return names.get(schema['options']) ?? choice((option) => JSON.stringify(option))
    case 'array':
      return `list of ${inner(schema['item'])}`
    case 'nullable':
      return `${inner(schema['wrapped'])}, or null`
    case 'optional':
      return `${inner(schema['wrapped'])}, may be absent`
    case 'union':
    case 'variant':
      return choice(inner)
    case 'strict_object':
      return `{ ${Object.entries(entriesOf(schema))
        .map(([key, item]) => `${key}: ${inner(item)}`)
        .join('; ')} }`
    case 'record':
      return `object of ${inner(schema['value'])}`
    default:
      return String(schema['type'])
  }
}

function shortAction(action: unknown): string {
  if (!isShape(action)) throw new Error('a pipe holds something that is no action')
  const requirement = shortText(action['requirement'])
  switch (action['type']) {
    case 'regex':
      return requirement
    case 'max_length':
      return `at most ${requirement} long`
    case 'min_length':
      return `at least ${requirement} long`
    case 'max_value':
      return `at most ${requirement}`
    case 'min_value':
      return `at least ${requirement}`
    case 'safe_integer':
      return 'whole'
    case 'starts_with':
      return `begins with ${requirement}`
    default:
      return String(action['type']).replaceAll('_', ' ')
  }
}

const shortText = (value: unknown): string => (value instanceof RegExp ? String(value) : JSON.stringify(value ?? null))
