/** Scenarios of a change that is not decided about yet: its number, its request, and the questions about it. */
import t from 'tap'
import { createWorld, must, refusalsIn } from './harness.ts'

const W = 'prod-dal10-carrier3-worker'
const [W1, W2, W3] = [`${W}-1`, `${W}-2`, `${W}-3`]
const OTHER = 'prod-dal10-carrier4-worker-1'
const FLEET = [W1, W2, W3, OTHER]
const ALL = `prod machines: ${W}-* outage:0`
const world3 = () => createWorld({ machines: FLEET })

t.test(
  '[CMD-8] a project whose change has no number yet is cancelled by its request, and leaves nothing behind',
  async (t) => {
    const world = await world3()
    world.provider.isUp = false
    const { request } = await world.request(ALL)
    const id = must(request ?? undefined).id
    t.match(await world.refusalsOf(ALL), [{ kind: 'machine-busy', remedy: new RegExp(`smith cancel ${id}`) }, {}, {}])
    t.match(await world.steer('cancel', id, 'the provider is down'), { ok: true })
    t.match(world.store().get('requests', id), {
      state: 'refused',
      refusals: [{ kind: 'conflict', message: /cancelled by ana: the provider is down/ }],
    })
    t.equal(world.driver().view.size('projects'), 0)
    t.match(refusalsIn(await world.steer('cancel', id)), [{ kind: 'not-found' }])
    world.provider.isUp = true
    await world.later(60_000)
    t.equal(world.store().get('localChanges', 'CHG0000001'), undefined, 'it is raised no more')
    const raise = must(world.calls.find((call) => call.call === 'raise'))
    await world.submit({ kind: 'smith' }, { type: 'localCall', call: raise })
    await world.settle()
    t.match(
      world.store().get('localChanges', 'CHG0000001'),
      { state: 'closed', closeCode: 'unsuccessful' },
      'one that was raised all the same is closed',
    )
    t.match(await world.ask(ALL), /^CHG0000002/, 'its machines are free')
  },
)

t.test(
  '[CMD-8] a change that was raised for a cancelled request and lost its closing is closed at the next start',
  async (t) => {
    const world = await world3()
    world.provider.isUp = false
    const { request } = await world.request(ALL)
    await world.steer('cancel', must(request ?? undefined).id)
    await world.submit(
      { kind: 'smith' },
      { type: 'localCall', call: must(world.calls.find((call) => call.call === 'raise')) },
    )
    await world.settle()
    t.match(world.store().get('localChanges', 'CHG0000001'), { state: 'open' })
    world.provider.isUp = true
    await world.restart()
    t.match(world.store().get('localChanges', 'CHG0000001'), { state: 'closed', closeCode: 'unsuccessful' })
  },
)

t.test(
  '[DRV-4] asking about a change leaves no row, neither while it waits for approval nor for a grant',
  async (t) => {
    const world = await world3()
    const change = await world.ask(ALL)
    world.rows.length = 0
    await world.later(600_000)
    t.ok(world.calls.filter((call) => call.call === 'permission').length > 30, 'it was asked about')
    t.strictSame(world.rows, [])
    world.provider.answer = (permission) => ({ ...permission, onHold: true })
    await world.approve(change)
    world.rows.length = 0
    await world.later(500_000)
    t.strictSame(world.rows, [], 'a wait that goes on as it was says nothing new')
  },
)
