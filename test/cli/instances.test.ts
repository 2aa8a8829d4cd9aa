/** A request of a CLI that knows several instances goes to the one whose machines it names. */
import t from 'tap'
import { problem, startFake } from './fake-coordinator.ts'
import { makeHome } from './run-cli.ts'
import * as s from './samples.ts'

const REQUEST = 'prod machines: web-1 outage:0'

t.test(
  '[MUL-2] patch and plan go where the machines are; on several instances, or on none, nothing is asked',
  async (t) => {
    const [dev, prod] = [await startFake('dev'), await startFake('prod')]
    const home = makeHome({ dev, prod })
    t.teardown(async () => {
      home.remove()
      await Promise.all([dev.close(), prod.close()])
    })
    const none = () => problem(404, 'unknown-machine', 'web-1 is unknown', 'see smith machines')
    const some = () => ({ machines: [s.machineView('web-1')] })
    for (const fake of [dev, prod])
      fake.on('requestMake', (call) => s.requestView(call.body['preview'] === true ? 'previewed' : 'raised'))
    const asked = () => [dev, prod].map((fake) => fake.calls.filter((call) => call.name === 'requestMake').length)
    dev.on('machines', none)
    prod.on('machines', some)
    t.equal((await home.run(['patch', REQUEST])).status, 0)
    t.same(asked(), [0, 2], 'a preview and a request, both to prod')
    t.equal((await home.run(['plan', REQUEST])).status, 0)
    t.same(asked(), [0, 3])
    prod.on('machines', none)
    t.match(await home.run(['patch', REQUEST]), { status: 1, err: /web-1 is unknown/ })
    dev.on('machines', some)
    prod.on('machines', some)
    t.match(await home.run(['patch', REQUEST]), { status: 1, err: /on several instances.*dev: web-1; prod: web-1/ })
    t.same(asked(), [0, 3])
    t.equal((await home.run(['--instance', 'dev', 'patch', REQUEST])).status, 0, 'named, it is not looked for')
    t.same(asked(), [2, 3])
    await dev.close()
    t.match(await home.run(['patch', REQUEST]), { status: 3, err: /dev can't say whether it has these machines/ })
    t.same(asked(), [2, 3])
  },
)

t.test('[BOT-22] what is amiss beside the projects stands above their list', async (t) => {
  const prod = await startFake('prod')
  const home = makeHome({ prod })
  t.teardown(async () => {
    home.remove()
    await prod.close()
  })
  const troubles = ['Slack (connection): token_revoked']
  prod.on('projects', () => ({ instance: 'prod', frozen: null, projects: [], troubles }))
  t.equal((await home.run(['status'])).out, 'Trouble: Slack (connection): token_revoked\nNo projects.\n')
})
