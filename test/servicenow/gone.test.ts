/** A change that is not in ServiceNow any more, and an approval that only ServiceNow can give: what a person is told to do. */
import t from 'tap'
import { troubleText } from '../../coordinator/chat/texts.ts'
import { createSnowWorld, NAMES, type SnowWorld } from './world.ts'

const ASK = `prod machines: ${NAMES.join(' ')} outage:0`

/** The first machine is done, and the change is deleted before the second is granted. */
async function deletedBetween(): Promise<{ world: SnowWorld; number: string }> {
  const world = await createSnowWorld()
  const number = await world.approved(ASK)
  await world.agent(NAMES[0]).steps('claim', 'update')
  world.standIn.records.delete(number)
  await world.agent(NAMES[0]).succeed()
  await world.later(30_000)
  return { world, number }
}
const open = (world: SnowWorld) => [...world.driver().view.all('remoteChanges')].length
const troubles = (world: SnowWorld) =>
  [...world.driver().view.all('remoteChanges')].flatMap(({ project }) => world.servicenow().troubles(project)).join()

t.test('[SNW-50] a change that was deleted stops the project, which says so and what gives it up', async (t) => {
  const { world, number } = await deletedBetween()
  t.match(world.json(number).stop, {
    kind: 'waiting',
    code: 'change-provider',
    reason: /^CHG\d+ is not in ServiceNow any more, or smith's account may not read it \(404\); .*smith cancel CHG\d+$/,
    lift: `smith cancel ${number}, or smith resume ${number} once it is back`,
  })
  await world.later(700_000)
  t.match(world.json(number).stop, {
    kind: 'hold',
    lift: `smith cancel ${number}, or smith resume ${number} once it is back`,
  })
  t.equal(world.agent(NAMES[1]).grants().length, 0)
  t.ok((await world.steer('cancel', number)).ok)
  t.match(world.json(number), { state: 'cancelled', stop: null })
  await world.later(700_000)
  t.equal(open(world), 0, 'nothing more is asked about it')
  const calls = world.standIn.calls.length
  await world.later(3_600_000)
  t.equal(world.standIn.calls.length, calls)
})

t.test('[SNW-50] one that was deleted before its approval is cancelled too', async (t) => {
  const world = await createSnowWorld()
  const number = await world.ask(ASK)
  world.standIn.records.delete(number)
  await world.later(20_000)
  t.match(troubles(world), new RegExp(`${number} is not in ServiceNow any more.*give it up: smith cancel ${number}`))
  await world.steer('cancel', number)
  await world.later(60_000)
  t.equal(open(world), 0)
  t.match(world.brief(number), /^cancelled/)
})

t.test(
  '[SNW-51] one that was deleted before it could be closed is let go by who cancels it, and by nobody else',
  async (t) => {
    const world = await createSnowWorld()
    const number = await world.approved(ASK)
    await world.agent(NAMES[0]).succeed()
    await world.later(5000)
    world.standIn.fault = () => 'html'
    await world.agent(NAMES[1]).succeed()
    await world.later(5000)
    t.ok(open(world) === 1)
    world.standIn.records.delete(number)
    world.standIn.fault = () => undefined
    await world.later(3_600_000)
    t.equal(open(world), 1, 'it may only be out of sight')
    t.match(troubles(world), /smith cancel CHG/)
    t.equal((await world.steer('cancel', number, 'gone', 'vi')).ok, false)
    t.ok((await world.steer('cancel', number, 'gone')).ok)
    await world.later(3_600_000)
    t.equal(open(world), 0)
    t.equal(world.project(number).outcome, 'complete')
    t.equal((await world.steer('cancel', number)).ok, false, 'now it is closed like all others')
  },
)

t.test('[SNW-51] one that is given up and there all the same is closed as it should be', async (t) => {
  const world = await createSnowWorld()
  const number = await world.approved(ASK)
  await world.agent(NAMES[0]).succeed()
  await world.later(5000)
  world.standIn.fault = () => 'html'
  await world.agent(NAMES[1]).succeed()
  await world.later(60_000)
  t.equal(open(world), 1)
  t.ok((await world.steer('cancel', number)).ok)
  world.standIn.fault = () => undefined
  await world.later(3_600_000)
  t.equal(open(world), 0)
  t.not(world.change(number)['close_code'], '')
})

t.test(
  '[SNW-52] where the approval was taken back, the stop says where to get it, in the status and in chat',
  async (t) => {
    const world = await createSnowWorld()
    const number = await world.approved(ASK)
    await world.agent(NAMES[0]).steps('claim', 'update')
    world.standIn.records.revert(number)
    await world.agent(NAMES[0]).succeed()
    await world.later(30_000)
    const link = `https://stand-in/nav_to.do?uri=change_request.do%3Fsys_id%3D${world.change(number)['sys_id'] ?? ''}`
    const lift = `have ${number} approved at ${link} or give it up: smith cancel ${number}`
    t.match(world.json(number).stop, { kind: 'hold', code: 'approval', lift })
    t.match(world.text(number), `       Lift: ${lift}`)
    t.match(
      world.facts().findLast(({ fact }) => fact === 'stopSet'),
      { lift },
    )
    t.match(troubleText(number, [], lift), `Lift: have ${number} approved at ${link} or`)
    t.match(troubleText(number, [], `smith resume ${number}`), `Lift: \`smith resume ${number}\``)
    t.notMatch(world.text(number), /smith approve/)
  },
)
