/** The identifiers that cross a boundary, each with the only form in which it is accepted. None is ever a path. */
import * as v from 'valibot'

/** A random 128-bit id (machine, order, request, session) as 32 lower-case hexadecimal digits. */
export const ID_PATTERN = /^[0-9a-f]{32}$/
export const idSchema = v.pipe(v.string(), v.regex(ID_PATTERN))
export type Id = string

/** SHA-256 (FIPS 180-4) as 64 lower-case hexadecimal digits. */
export const sha256Schema = v.pipe(v.string(), v.regex(/^[0-9a-f]{64}$/))

/** A host name label sequence (RFC 1123 section 2.1), lower case, at most 253 characters. */
export const MACHINE_NAME_PATTERN =
  /^(?=.{1,253}$)[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*$/
export const machineNameSchema = v.pipe(v.string(), v.regex(MACHINE_NAME_PATTERN))

export const CHANGE_PATTERN = /^CHG[0-9]{7}$/
export const changeNumberSchema = v.pipe(v.string(), v.regex(CHANGE_PATTERN))
export const TASK_PATTERN = /^CTASK[0-9]{7}$/

/** `prod`, or the digits of a numbered build. */
export const BUILD_PATTERN = /^(prod|[0-9]{1,12})$/
export const buildSchema = v.pipe(v.string(), v.regex(BUILD_PATTERN))

/** Debian Policy 5.6.1 and deb-version(7); the same forms that the runner hands to apt, so no option can hide in one. */
export const packageNameSchema = v.pipe(v.string(), v.regex(/^[a-z0-9][a-z0-9+.-]{1,127}$/))
export const architectureSchema = v.pipe(v.string(), v.regex(/^[a-z0-9][a-z0-9-]{0,31}$/))
export const packageVersionSchema = v.pipe(v.string(), v.regex(/^[0-9][A-Za-z0-9.+:~-]{0,255}$/))

/** Milliseconds since the epoch. */
export const instantSchema = v.pipe(v.number(), v.safeInteger(), v.minValue(0))
export const countSchema = v.pipe(v.number(), v.safeInteger(), v.minValue(0))
/** Free text of a person or a program, one paragraph. */
export const shortTextSchema = v.pipe(v.string(), v.maxLength(2000))
export const base64Schema = v.pipe(v.string(), v.regex(/^[A-Za-z0-9+/]*={0,2}$/), v.maxLength(1_400_000))
