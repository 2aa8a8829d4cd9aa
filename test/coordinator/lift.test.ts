/**
 * Whatever happened to a project, the command that its status shows lifts its stop: random histories of people,
 * agents and crashes, after which only what stands behind `Lift:` is typed, to the letter, until every project ends.
 */
import t from 'tap'
import type { Status } from '../../protocol/status.ts'
import { type Dice, createDice } from '../sim/random.ts'
import { EMPTY_PLAN, ORDER_STEPS, type World, createWorld, must, planOf, resultRecord } from './harness.ts'
import { typed } from './typed.ts'

const W = 'prod-dal10-carrier3-worker'
const FLEET = [`${W}-1`, `${W}-2`, 'prod-dal10-carrier4-worker-1']
const SEEDS = 150
const ACTIONS = 60

const openChanges = (world: World) =>
  [...world.driver().view.all('projects')].flatMap((project) => (project.change === null ? [] : [project.change]))

/** How a project goes, at random; its window opens soon, or ends while the history goes on. */
function paceText(world: World, dice: Dice): string {
  const time = (minutes: number) => `${new Date(world.driver().now() + minutes * 60_000).toISOString().slice(0, 16)}Z`
  return [
    dice.pick(['', '', 'phases:1,100%', 'phases:50%,100% soak:3']),
    dice.pick(['', '', 'on-failure:continue', 'max-failures:2']),
    dice.pick(['', '', '', `window:${time(-5)}/${time(10)}`, `window:${time(8)}/${time(90)}`]),
  ].join(' ')
}

async function actOnce(world: World, dice: Dice): Promise<void> {
  const agent = world.agent(dice.pick(FLEET))
  const change = dice.pick([...openChanges(world), 'CHG0000001'])
  const known = world.driver().view.get('changes', change) !== undefined
  const isUp = world.driver().view.get('sessions', agent.id()) !== undefined
  const last = agent.grants().at(-1)
  const isHis = last !== undefined && world.driver().view.get('orders', last.order)?.result === null
  const commands: (() => Promise<unknown>)[] = [
    () =>
      world.request(
        `prod machines: ${dice.pick(['prod-dal10-*', `${W}-*`, agent.name])} outage:${dice.pick(['0', '5'])} offline:skip busy:skip ${paceText(world, dice)}`,
      ),
    async () => known && world.approve(change),
    async () => known && world.approve(change),
    async () => known && world.decide('reject', change),
    () => world.steer('pause', change),
    () => world.steer('resume', change),
    () => world.steer('cancel', change),
    () => world.retry(change, agent.name),
    () => world.skip(change, agent.name),
    () => world.resolve(change, agent.name, dice.pick(['succeeded', 'failed'])),
    () => world.command('cy', { type: dice.pick(['freeze', 'unfreeze']), reason: '' }),
    () => world.enrol(agent.name, {}, true),
    () => world.restart(),
    () => world.later(dice.pick([1000, 15_000, 95_000, 601_000])),
    async () => void (agent.plan = dice.pick([planOf('2.0'), planOf('2.0'), planOf('2.1'), EMPTY_PLAN])),
    async () => void (agent.plansBySelf = !agent.plansBySelf),
    async () =>
      void (world.provider.answer = dice.pick<World['provider']['answer']>([
        (one) => one,
        (one) => one,
        () => null,
        (one) => ({ ...one, onHold: true }),
        (one) => ({ ...one, window: { start: 0, end: 1 } }),
      ])),
    async () => void (world.provider.delayMs = dice.pick([0, 0, 2000, 11_000])),
    async () => void (agent.orders = []),
    () => agent.connect(),
    () => agent.connect(),
    () => agent.connect({ counter: 1 }),
    () => agent.cut(),
    async () => isUp && isHis && agent.steps(dice.pick(ORDER_STEPS)),
    async () => isUp && isHis && agent.steps('claim', 'latch'),
    async () =>
      isUp &&
      isHis &&
      agent.result(dice.pick(['succeeded', 'failed', 'unknown', 'void']), { latched: dice.chance(0.5) }),
    async () => isUp && last !== undefined && agent.record({ type: 'line', step: 'install', offset: 0, text: 'x' }),
    async () =>
      last !== undefined && agent.inHand(dice.pick(['inbox', 'claimed', 'latched', 'ended', 'refused']), last.order),
  ]
  await dice.pick(commands)()
  await world.settle()
}

const isBusy = (world: World) => world.driver().view.size('projects') + world.driver().view.size('requests') > 0

/** Every machine is up and does what it is told; a machine with two keys is enrolled anew. */
async function heal(world: World): Promise<void> {
  world.provider.answer = (permission) => permission
  world.provider.delayMs = 0
  for (const name of FLEET) {
    if (world.driver().view.get('machines', world.agent(name).id())?.quarantined != null)
      await world.enrol(name, {}, true)
    const agent = world.agent(name)
    agent.plansBySelf = true
    agent.plan = planOf('2.0')
    agent.orders = []
    const order = [...world.driver().view.all('orders')].find(
      (one) => one.machine === agent.id() && ['granted', 'running', 'unknown'].includes(one.state),
    )
    if (order !== undefined && (order.claimed || order.result !== null)) agent.inHand('latched', order.id)
    await agent.connect()
  }
}

/** Machines at work finish; what was called back is void. */
async function work(world: World): Promise<void> {
  for (const name of FLEET) {
    const agent = world.agent(name)
    const order = [...world.driver().view.all('orders')].find(
      (one) => one.machine === agent.id() && ['granted', 'running'].includes(one.state),
    )
    if (order === undefined || order.result !== null) continue
    if (order.revoking && !order.claimed)
      await agent.say({ t: 'records', order: order.id, records: [resultRecord(order.upTo + 1, 'void')] })
    else
      await agent.say({
        t: 'records',
        order: order.id,
        records: [
          { n: order.upTo + 1, at: 1, type: 'step', step: 'verify' },
          resultRecord(order.upTo + 2, 'succeeded'),
        ],
      })
    await world.settle()
  }
}

/** Types what the status says. The answer is why it did not work, null when it did or there was nothing to type. */
async function lift(world: World, change: string, status: Status): Promise<string | null> {
  if (status.state === 'pending') {
    const reply = await world.approve(change)
    return reply.ok ? null : `approve: ${JSON.stringify(reply.refusals)}`
  }
  if (status.stop === null || status.stop.kind === 'waiting') return null
  if (status.stop.code === 'drift') {
    // The retry is for when the archive was put back as it was.
    const target = world.target(change, must(status.stop.machine ?? undefined))
    world.agent(target.name).plan = must(world.store().get('plans', target.planHash)).plan
  }
  const command = typed(status.stop.lift)
  if (command === null) return `nothing to type: ${status.stop.lift}`
  const given = command.type === 'decide' ? { ...command, digest: status.digest } : command
  const by = command.type === 'decide' ? 'bo' : command.type === 'unfreeze' ? 'cy' : 'ana'
  const reply = await world.command(by, given)
  return reply.ok ? null : `${status.stop.lift}: ${JSON.stringify(reply.refusals)}`
}

t.test('[HLD-6] after any history, what stands behind Lift is accepted, and every project ends', async (t) => {
  for (let seed = 1; seed <= SEEDS; seed += 1) {
    const dice = createDice(seed, 'history')
    // START is at 22:13 UTC: the windows of the configuration end soon, and go on after a while.
    const windows = seed % 3 === 0 ? ['0 21 * * * for 2h', '30 23 * * * for 23h'] : []
    const world = await createWorld({ machines: FLEET, schedule: { windows, runMsExpected: 300_000 } })
    for (let action = 0; action < ACTIONS; action += 1) await actOnce(world, dice)
    await heal(world)
    const problems: string[] = []
    for (let round = 0; round < 200 && isBusy(world); round += 1) {
      for (const change of openChanges(world)) {
        if (world.driver().view.get('changes', change) === undefined) continue
        const problem = await lift(world, change, world.json(change))
        if (problem !== null) problems.push(`${change}: ${problem}`)
      }
      await work(world)
      await world.later(16_000)
    }
    const stuck = openChanges(world).map(
      (change) => `${world.brief(change)} ${JSON.stringify(world.json(change).stop)}`,
    )
    if (isBusy(world)) stuck.push('something is still open')
    if (world.fatal.length > 0 || stuck.length > 0 || problems.length > 0) {
      t.fail(`seed ${seed}: ${world.fatal.map((error) => error.stack).join('')}${[...problems, ...stuck].join('\n')}`)
      return
    }
    for (const project of world.store().projects({ limit: 999 })) {
      if (project.change !== null) world.json(project.change)
      t.equal(
        Object.values(project.counts).reduce((sum, count) => sum + count, 0),
        project.targets,
      )
    }
    t.equal(world.driver().view.size('lines'), 0, `seed ${seed}: no line is left`)
    t.strictSame(
      [...world.driver().view.all('machines')].filter((machine) => machine.project !== null),
      [],
      `seed ${seed}: no machine is left`,
    )
  }
})
