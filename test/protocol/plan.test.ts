/**
 * Plans: the one text that is hashed, the digest over a change, and drift, which decides whether a run may go on.
 */
import { createHash } from 'node:crypto'
import * as fc from 'fast-check'
import t from 'tap'
import * as v from 'valibot'
import { authText } from '../../protocol/agent.ts'
import { canonicalJson } from '../../protocol/canonical.ts'
import { compareText } from '../../protocol/natural-order.ts'
import {
  type Install,
  PLAN_ACTIONS_MAX,
  type Plan,
  digestText,
  driftOf,
  isEmptyPlan,
  planSchema,
  planText,
} from '../../protocol/plan.ts'
import { plain } from './describe.ts'

const sha256 = (text: string) => createHash('sha256').update(text).digest('hex')
/** The same examples on each run; a failing one is printed by fast-check with its path. */
const runs = { seed: 20_241, numRuns: 500 }
const SHA = sha256('anything')
const ID = '0123456789abcdef0123456789abcdef'

const install = (name: string, version = '2.0', sha = sha256(name)): Install => ({
  name,
  arch: 'amd64',
  version,
  from: '1.0',
  sha256: sha,
  size: 1000,
})
const emptyPlan: Plan = {
  v: 1,
  build: '725',
  arch: 'amd64',
  installs: [],
  removes: [],
  repairs: [],
  holds: [],
  rebootDue: false,
  conffiles: 'keep',
}
const approved: Plan = {
  ...emptyPlan,
  installs: [install('libc6'), install('nginx'), install('zlib1g')],
  removes: [{ name: 'old-kernel', arch: 'amd64', version: '5.0' }],
  repairs: [{ name: 'dbus', arch: 'amd64', version: '1.14', state: 'half-configured' }],
  holds: ['docker'],
}
const packagesOf = (plan: Plan) =>
  [...plan.installs, ...plan.removes, ...plan.repairs].map((entry) => `${entry.name}:${entry.arch}`)

t.test('[PRO-5] what is signed and hashed has one text, to the byte', async (t) => {
  t.equal(
    planText(approved),
    `smith-plan-v1\n{"arch":"amd64","build":"725","conffiles":"keep","holds":["docker"],"installs":[${approved.installs
      .map(
        (entry) =>
          `{"arch":"amd64","from":"1.0","name":"${entry.name}","sha256":"${entry.sha256}","size":1000,"version":"2.0"}`,
      )
      .join(
        ',',
      )}],"rebootDue":false,"removes":[{"arch":"amd64","name":"old-kernel","version":"5.0"}],"repairs":[{"arch":"amd64","name":"dbus","state":"half-configured","version":"1.14"}],"v":1}`,
  )
  t.equal(
    planText({ ...approved, installs: approved.installs.toReversed() }),
    planText(approved),
    'apt’s own order does not enter',
  )
  const one = { machine: ID, planHash: SHA }
  const two = { machine: 'f'.repeat(32), planHash: sha256('other') }
  t.equal(digestText([one, two]), `smith-digest-v1\n${ID} ${SHA}\n${two.machine} ${two.planHash}\n`)
  t.not(digestText([one, two]), digestText([two, one]), 'the order of the machines is approved too')
  t.equal(
    authText({ coordinatorNonce: 'a', agentNonce: 'b', machine: 'c', incarnation: 'd', counter: 5 }),
    'smith-auth-v1\na\nb\nc\nd\n5\n',
  )
  t.ok(isEmptyPlan(emptyPlan) && !isEmptyPlan(approved))
  t.ok(isEmptyPlan({ ...emptyPlan, rebootDue: true, holds: ['docker'] }), 'a reboot alone installs nothing')
})

const DRIFT: readonly (readonly [what: string, now: Plan, isRetry: boolean, expected: readonly string[]])[] = [
  ['the same plan', approved, false, []],
  ['the same plan in another order', { ...approved, installs: approved.installs.toReversed() }, false, []],
  ['another build', { ...approved, build: '726' }, false, ['']],
  ['a new package', { ...approved, installs: [...approved.installs, install('curl')] }, false, ['curl:amd64']],
  [
    'another version',
    { ...approved, installs: [install('libc6', '2.1'), ...approved.installs.slice(1)] },
    false,
    ['libc6:amd64'],
  ],
  [
    'an older version',
    { ...approved, installs: [install('libc6', '1.9'), ...approved.installs.slice(1)] },
    true,
    ['libc6:amd64'],
  ],
  [
    'other content',
    { ...approved, installs: [install('libc6', '2.0', SHA), ...approved.installs.slice(1)] },
    false,
    ['libc6:amd64'],
  ],
  [
    'another architecture',
    { ...approved, installs: [...approved.installs, { ...install('libc6'), arch: 'i386' }] },
    false,
    ['libc6:i386'],
  ],
  [
    'a new removal',
    { ...approved, removes: [...approved.removes, { name: 'vim', arch: 'amd64', version: '1' }] },
    false,
    ['vim:amd64'],
  ],
  [
    'an install that became a removal',
    {
      ...approved,
      installs: approved.installs.slice(1),
      removes: [...approved.removes, { name: 'libc6', arch: 'amd64', version: '1.0' }],
    },
    true,
    ['libc6:amd64'],
  ],
  [
    'a package that was interrupted since',
    { ...approved, repairs: [...approved.repairs, { name: 'vim', arch: 'amd64', version: '1', state: 'unpacked' }] },
    false,
    ['vim:amd64'],
  ],
  [
    'a repair of a package of the plan',
    {
      ...approved,
      repairs: [...approved.repairs, { name: 'nginx', arch: 'amd64', version: '2.0', state: 'unpacked' }],
    },
    true,
    [],
  ],
  [
    'a package put on hold since',
    { ...approved, installs: [install('libc6'), install('zlib1g')], holds: ['docker', 'nginx'] },
    false,
    ['nginx'],
  ],
  ['a hold on a package that is not in the plan', { ...approved, holds: ['docker', 'vim'] }, false, []],
  ['less than approved on a first try', { ...approved, installs: approved.installs.slice(1) }, false, ['libc6:amd64']],
  ['less than approved on a retry', { ...approved, installs: approved.installs.slice(1), repairs: [] }, true, []],
  ['nothing left on a retry', emptyPlan, true, []],
  ['nothing left on a first try', emptyPlan, false, packagesOf(approved)],
]

for (const [what, now, isRetry, expected] of DRIFT) {
  t.test(`[PRO-6] drift: ${what}`, async (t) => {
    t.same(
      driftOf(approved, now, isRetry)
        .map((drift) => drift.package)
        .toSorted(compareText),
      [...expected].toSorted(compareText),
    )
  })
}

const names = fc.constantFrom('libc6', 'nginx', 'zlib1g', 'curl', 'vim', 'dbus')
const version = fc.constantFrom('1.0', '1.1', '2.0')
const somePackages = <T extends { readonly name: string }>(entry: fc.Arbitrary<T>) =>
  fc.uniqueArray(entry, { selector: (item) => item.name, maxLength: 6 })
const somePlan: fc.Arbitrary<Plan> = fc
  .record({
    build: fc.constantFrom('prod', '725'),
    installs: somePackages(fc.tuple(names, version).map(([name, at]) => install(name, at))),
    removes: somePackages(fc.tuple(names, version).map(([name, at]) => ({ name, arch: 'amd64', version: at }))),
  })
  .map((parts) => {
    const taken = new Set(parts.installs.map((entry) => entry.name))
    return { ...emptyPlan, ...parts, removes: parts.removes.filter((entry) => !taken.has(entry.name)) }
  })

t.test('[PRO-6] drift as a law: nothing that was not approved passes, everything that was does', async (t) => {
  fc.assert(
    fc.property(somePlan, fc.boolean(), (plan, isRetry) => driftOf(plan, plan, isRetry).length === 0),
    runs,
  )
  fc.assert(
    fc.property(somePlan, fc.integer({ min: 0, max: 63 }), (plan, mask) => {
      const part = { ...plan, installs: plan.installs.filter((_, index) => (mask >> index) % 2 === 1) }
      const left = plan.installs.length - part.installs.length
      return driftOf(plan, part, true).length === 0 && driftOf(plan, part, false).length === left
    }),
    runs,
  )
  fc.assert(
    fc.property(somePlan, somePlan, fc.boolean(), (before, now, isRetry) => {
      const named = new Set(driftOf(before, now, isRetry).map((drift) => drift.package))
      const allowed = new Set(before.installs.map((entry) => canonicalJson(plain(entry))))
      const removed = new Set(before.removes.map((entry) => entry.name))
      const foreign = now.installs
        .filter((entry) => !allowed.has(canonicalJson(plain(entry))))
        .map((entry) => entry.name)
      const lost = now.removes.filter((entry) => !removed.has(entry.name)).map((entry) => entry.name)
      return (
        [...foreign, ...lost].every((name) => named.has(`${name}:amd64`)) &&
        (before.build === now.build || named.has(''))
      )
    }),
    { ...runs, numRuns: 3000 },
  )
  t.pass('same is same, less is less, foreign is named')
})

t.test('[PRO-9] a plan has at most as many actions as a frame can carry', async (t) => {
  const many = (count: number) => Array.from({ length: count }, (_, index) => install(`p${index}`))
  t.ok(v.is(planSchema, { ...emptyPlan, installs: many(PLAN_ACTIONS_MAX) }))
  t.notOk(v.is(planSchema, { ...emptyPlan, installs: many(PLAN_ACTIONS_MAX + 1) }))
  t.notOk(v.is(planSchema, { ...emptyPlan, installs: [{ ...install('nginx'), script: 'x' }] }), 'closed to the leaves')
})
