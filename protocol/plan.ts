/**
 * The plan: what an order does to its machine. It is made on the machine, approved by its hash as part of the
 * change's digest, carried by the grant, and compared with a fresh one right before the latch.
 */
import * as v from 'valibot'
import { canonicalJson } from './canonical.ts'
import {
  architectureSchema,
  buildSchema,
  countSchema,
  instantSchema,
  packageNameSchema,
  packageVersionSchema,
  sha256Schema,
  shortTextSchema,
} from './ids.ts'
import { compareText } from './natural-order.ts'

/** More than this many actions is a release upgrade, which is not smith's work. */
export const PLAN_ACTIONS_MAX = 4000

const packageFields = { name: packageNameSchema, arch: architectureSchema }
/** One archive to unpack and configure; `from` is the version installed now, null for a new package. */
export const installSchema = v.strictObject({
  ...packageFields,
  version: packageVersionSchema,
  from: v.nullable(packageVersionSchema),
  sha256: sha256Schema,
  size: countSchema,
})
export const removeSchema = v.strictObject({ ...packageFields, version: packageVersionSchema })
/** The states of dpkg(1) "Package states" in which a package is neither installed nor absent. */
export const INTERRUPTED_STATES = [
  'half-installed',
  'unpacked',
  'half-configured',
  'triggers-awaited',
  'triggers-pending',
] as const
export const repairSchema = v.strictObject({
  ...packageFields,
  version: packageVersionSchema,
  state: v.picklist(INTERRUPTED_STATES),
})
const list = <S extends v.GenericSchema>(item: S) => v.pipe(v.array(item), v.maxLength(PLAN_ACTIONS_MAX))

/** `build` is what `prod` was resolved to; `holds` are apt holds (apt-mark(8)) kept back; `conffiles` is the policy. */
export const planSchema = v.strictObject({
  v: v.literal(1),
  build: buildSchema,
  arch: architectureSchema,
  installs: list(installSchema),
  removes: list(removeSchema),
  repairs: list(repairSchema),
  holds: list(packageNameSchema),
  rebootDue: v.boolean(),
  conffiles: v.literal('keep'),
})
export type Plan = v.InferOutput<typeof planSchema>
export type Install = v.InferOutput<typeof installSchema>
export type Remove = v.InferOutput<typeof removeSchema>
export type Repair = v.InferOutput<typeof repairSchema>

/** Kept beside the plan and never hashed with it: archives are signed again daily without changing. */
export const planEvidenceSchema = v.strictObject({
  /** One per source: SHA-256 of the InRelease file, its Date, which may never go back, and its Valid-Until, if any. */
  releases: v.pipe(
    v.array(
      v.strictObject({
        ...{ uri: shortTextSchema, suite: shortTextSchema, sha256: sha256Schema, date: instantSchema },
        validUntil: v.optional(instantSchema),
      }),
    ),
    v.maxLength(64),
  ),
  downloadBytes: countSchema,
  installedBytesDelta: v.pipe(v.number(), v.safeInteger()),
  madeAt: instantSchema,
})
export type PlanEvidence = v.InferOutput<typeof planEvidenceSchema>

/** The text whose SHA-256 is the plan's hash. */
export function planText(plan: Plan): string {
  return `smith-plan-v1\n${canonicalJson(sortedPlan(plan))}`
}

/** The text whose SHA-256 is the digest of a change: its machines in their order, each with its plan's hash. */
export function digestText(machines: readonly { readonly machine: string; readonly planHash: string }[]): string {
  return `smith-digest-v1\n${machines.map((entry) => `${entry.machine} ${entry.planHash}\n`).join('')}`
}

/** True when the machine would be left as it is, but for a reboot. */
export function isEmptyPlan(plan: Plan): boolean {
  return plan.installs.length === 0 && plan.removes.length === 0 && plan.repairs.length === 0
}

const byPackage = (a: { name: string; arch: string }, b: { name: string; arch: string }) =>
  compareText(a.name, b.name) || compareText(a.arch, b.arch)

/** The plan with each list in the order of its packages, so that apt's own order does not enter the hash. */
export function sortedPlan(plan: Plan): Plan {
  return {
    ...plan,
    installs: plan.installs.toSorted(byPackage),
    removes: plan.removes.toSorted(byPackage),
    repairs: plan.repairs.toSorted(byPackage),
    holds: plan.holds.toSorted(compareText),
  }
}

/** One way in which the machine's plan of now is not what was approved. */
export type Drift = { readonly package: string; readonly message: string }

/**
 * Names everything in `now` that the `approved` plan does not allow. An empty answer means that the run may go on:
 * each action stands in the approved plan at the same version and hash, or repairs a package of it. With
 * `isRetry` the plan may be smaller, since the try before did part of it.
 */
export function driftOf(approved: Plan, now: Plan, isRetry: boolean): Drift[] {
  const drift: Drift[] = []
  const key = (entry: { name: string; arch: string }) => `${entry.name}:${entry.arch}`
  const installs = new Map(approved.installs.map((entry) => [key(entry), entry]))
  const removes = new Map(approved.removes.map((entry) => [key(entry), entry]))
  const repairs = new Map(approved.repairs.map((entry) => [key(entry), entry]))
  if (approved.build !== now.build) {
    drift.push({ package: '', message: `build ${now.build} instead of the approved ${approved.build}` })
  }
  for (const entry of now.installs) {
    const wanted = installs.get(key(entry))
    if (wanted === undefined) {
      // Reinstalling a broken package at the version it has is its repair (dpkg state half-installed).
      if (repairs.get(key(entry))?.version === entry.version) continue
      drift.push({
        package: key(entry),
        message: `${key(entry)}=${entry.version} would be installed and is not in the approved plan`,
      })
    } else if (wanted.version !== entry.version) {
      drift.push({
        package: key(entry),
        message: `${key(entry)} is at ${entry.version} now, approved was ${wanted.version}`,
      })
    } else if (wanted.sha256 !== entry.sha256) {
      drift.push({
        package: key(entry),
        message: `${key(entry)}=${entry.version} has other content than the one approved`,
      })
    }
  }
  for (const entry of now.removes) {
    if (!removes.has(key(entry))) {
      drift.push({
        package: key(entry),
        message: `${key(entry)} would be removed and that is not in the approved plan`,
      })
    }
  }
  for (const entry of now.repairs) {
    if (repairs.has(key(entry)) || installs.has(key(entry)) || removes.has(key(entry))) continue
    drift.push({ package: key(entry), message: `${key(entry)} was left ${entry.state} by dpkg since the approval` })
  }
  for (const hold of now.holds) {
    const wanted = [...installs.values()].some((entry) => entry.name === hold)
    if (wanted) drift.push({ package: hold, message: `${hold} was put on apt hold after the approval` })
  }
  if (!isRetry) {
    const still = new Set([...now.installs, ...now.removes, ...now.repairs].map(key))
    for (const entry of [...approved.installs, ...approved.removes, ...approved.repairs]) {
      if (still.has(key(entry)) || drift.some((one) => one.package === entry.name)) continue
      drift.push({ package: key(entry), message: `${key(entry)} is in the approved plan and no longer to be done` })
    }
  }
  return drift
}
