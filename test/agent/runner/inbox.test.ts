/** What lies in the inbox: nothing there is believed before it is verified, and nothing there stops the runner. */
import { execFileSync } from 'node:child_process'
import { existsSync, mkdirSync, readdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { randomBytes } from 'node:crypto'
import t from 'tap'
import type { SignedGrant } from '../../../protocol/files.ts'
import { createMachine } from './machine.ts'

const one = { installed: [{ name: 'app', version: '1.0' }], published: [{ name: 'app', version: '2.0' }] }

t.test(
  '[RUN-19] garbage of every kind is moved out, the runner ends well, and a good grant beside it runs',
  async (t) => {
    const machine = await createMachine(one)
    t.teardown(machine.close)
    const { inbox } = machine.layout
    const id = () => randomBytes(16).toString('hex')
    writeFileSync(join(inbox, `grant-${id()}.json`), '{')
    writeFileSync(join(inbox, `grant-${id()}.json`), '{"type":"grant"}')
    writeFileSync(join(inbox, `grant-${id()}.json`), Buffer.alloc(5_000_000))
    writeFileSync(join(inbox, `revoke-${id()}.json`), JSON.stringify({ type: 'revoke', order: id() }))
    writeFileSync(join(inbox, 'README'), 'hello')
    symlinkSync('/etc/passwd', join(inbox, `grant-${id()}.json`))
    mkdirSync(join(inbox, `grant-${id()}.json`, 'deep'), { recursive: true })
    execFileSync('mkfifo', [join(inbox, `grant-${id()}.json`)])
    const { order, grant } = machine.grantFor(await machine.plan())
    machine.drop(order, grant)
    t.equal(await machine.startRunner().ended, 0)
    t.same(readdirSync(inbox), [])
    t.same(readdirSync(machine.layout.taken), [])
    t.equal(readdirSync(machine.layout.refused).length, 8)
    t.match(machine.resultOf(order), { outcome: 'succeeded' })
    t.equal(
      machine
        .log()
        .split('\n')
        .filter((line) => line.includes(' refused ')).length,
      8,
    )
  },
)

t.test('[RUN-20] a grant with any flaw is not claimed', async (t) => {
  const machine = await createMachine(one)
  t.teardown(machine.close)
  const planned = await machine.plan()
  const other = {
    ...planned,
    plan: { ...planned.plan, installs: planned.plan.installs.map((entry) => ({ ...entry, version: '9' })) },
  }
  const now = Date.now()
  const flaws: Record<string, () => { order: string; grant: SignedGrant; voided: boolean }> = {
    'signature does not hold': () => {
      const made = machine.grantFor(planned)
      return { ...made, grant: { ...made.grant, signature: Buffer.alloc(64).toString('base64') }, voided: false }
    },
    'not enrolled with': () => {
      const made = machine.grantFor(planned)
      return { ...made, grant: { ...made.grant, keyId: '0'.repeat(64) }, voided: false }
    },
    'for another machine': () => ({ ...machine.grantFor(planned, { machine: '0'.repeat(32) }), voided: true }),
    'came too late': () => ({
      ...machine.grantFor(planned, { issuedAt: now - 700_000, startBy: now - 100_000 }),
      voided: true,
    }),
    'longer than a grant may be': () => ({ ...machine.grantFor(planned, { startBy: now + 6_000_000 }), voided: true }),
    'in the future': () => ({
      ...machine.grantFor(planned, { issuedAt: now + 3_600_000, startBy: now + 3_700_000 }),
      voided: true,
    }),
    'not the one that was signed': () => {
      const made = machine.grantFor(planned)
      return { ...made, grant: { ...made.grant, plan: other.plan }, voided: true }
    },
  }
  for (const [reason, make] of Object.entries(flaws)) {
    const { order, grant, voided } = make()
    machine.drop(order, grant)
    t.equal(await machine.startRunner().ended, 0)
    t.match(machine.log(), reason)
    t.equal(existsSync(machine.files(order).latch), false, reason)
    const result = machine.resultOf(order)
    if (voided) t.match(result, { outcome: 'void', latched: false, n: 1 }, reason)
    else t.equal(result, undefined, reason)
    // Whoever reads it sees both times, so a wrong clock shows.
    if (/late|in the future/.test(reason)) t.match(result?.message, /Z, and by this machine's clock it is 20.*Z/)
  }
  t.equal((await machine.root.status('app'))?.version, '1.0')
  t.equal(machine.history(), '')
})

t.test('[EXH-3] a revoke that lies in the inbox beside its grant goes first', async (t) => {
  const machine = await createMachine(one)
  t.teardown(machine.close)
  const { order, grant } = machine.grantFor(await machine.plan())
  machine.drop(order, grant)
  machine.revoke(order)
  t.equal(await machine.startRunner().ended, 0)
  t.match(machine.resultOf(order), { outcome: 'void', latched: false, message: /revoked before it was claimed/ })
  t.match(machine.log(), 'the order has its void already')
  t.equal((await machine.root.status('app'))?.version, '1.0')
})

t.test('[RUN-21] claim and void exclude each other, a replay changes nothing, fences only rise', async (t) => {
  const machine = await createMachine(one)
  t.teardown(machine.close)
  const planned = await machine.plan()
  const low = machine.grantFor(planned)
  const revoked = machine.grantFor(planned)
  machine.revoke(revoked.order)
  await machine.startRunner().ended
  t.match(machine.resultOf(revoked.order), { outcome: 'void', message: /revoked before it was claimed/ })
  machine.drop(revoked.order, revoked.grant)
  await machine.startRunner().ended
  t.equal((await machine.root.status('app'))?.version, '1.0')
  t.match(machine.log(), 'the order has its void already')

  const good = machine.grantFor(planned)
  machine.drop(good.order, good.grant)
  await machine.startRunner().ended
  t.match(machine.resultOf(good.order), { outcome: 'succeeded' })
  const records = readFileSync(machine.files(good.order).records, 'utf8')
  machine.revoke(good.order)
  await machine.startRunner().ended
  t.match(machine.log(), 'the order is claimed already')
  machine.drop(good.order, good.grant)
  machine.drop(low.order, low.grant)
  await machine.startRunner().ended
  t.equal(readFileSync(machine.files(good.order).records, 'utf8'), records)
  t.match(machine.resultOf(low.order), { outcome: 'void', message: /its fence 1 is not above 3/ })
  t.equal(readFileSync(machine.layout.fence, 'utf8'), '3\n')
})
