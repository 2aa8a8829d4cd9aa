/** The kinds of keys that a configuration has, each with its check and what a person is told that it accepts. */
import { isAbsolute } from 'node:path'
import * as v from 'valibot'
import { ruleProblem } from './calendar.ts'

/** One key. `fallback: undefined` means that it must be given. */
export type Field<Value> = {
  readonly schema: v.GenericSchema<unknown, Value>
  readonly fallback: Value | undefined
  readonly accepted: string
  readonly about: string
}
export type Section = { readonly [key: string]: Field<unknown> }
export type ValuesOf<Fields extends Section> = {
  readonly [Key in keyof Fields]: Fields[Key] extends Field<infer Value> ? Value : never
}

export function field<Value>(
  about: string,
  accepted: string,
  schema: v.GenericSchema<unknown, Value>,
  fallback?: Value,
): Field<Value> {
  return { schema, fallback, accepted, about }
}

export function seconds(
  about: string,
  fallback: number,
  bounds: { readonly min: number; readonly max: number },
): Field<number> {
  const schema = v.pipe(v.number(), v.finite(), v.minValue(bounds.min), v.maxValue(bounds.max))
  return field(about, `seconds, ${bounds.min} to ${bounds.max}`, schema, fallback)
}

export function whole(
  about: string,
  fallback: number,
  bounds: { readonly min: number; readonly max: number },
): Field<number> {
  const schema = v.pipe(v.number(), v.safeInteger(), v.minValue(bounds.min), v.maxValue(bounds.max))
  return field(about, `a whole number, ${bounds.min} to ${bounds.max}`, schema, fallback)
}

export const flag = (about: string, fallback: boolean) => field(about, 'true or false', v.boolean(), fallback)
export const path = (about: string, fallback: string) =>
  field(
    about,
    'an absolute path',
    v.pipe(
      v.string(),
      v.check((text) => isAbsolute(text) && !text.includes('\0')),
    ),
    fallback,
  )

export const SECRET_ACCEPTED = 'an absolute path, or credential:NAME for one of systemd'
export const isSecretPath = (text: string): boolean =>
  /^credential:[A-Za-z0-9._-]+$/.test(text) || (isAbsolute(text) && !text.includes('\0'))
/** A list of texts, each of which passes `isGood`. */
export const texts = (about: string, accepted: string, isGood: (text: string) => boolean) =>
  field(about, accepted, v.pipe(v.array(v.pipe(v.string(), v.check(isGood))), v.readonly()), [] as readonly string[])
export const rules = (about: string) =>
  texts(
    about,
    'a list of "CRON for DURATION" ("0 22 * * 1-5 for 6h") or "START/END" ("2026-12-24T00:00/2027-01-02T00:00")',
    (text) => ruleProblem(text) === null,
  )
