/** Several instances: each asked in turn in the runbook's words; a request goes to the one whose machines it names. */
import t from 'tap'
import { createChatWorld } from './world.ts'

const both = { instances: ['dev', 'prod'] } as const

t.test('[MUL-1] a status asks each instance in turn, and says which one does not know it', async (t) => {
  const chat = await createChatWorld(t, both)
  const { slack, worlds } = chat
  await worlds['prod']?.machine('prod-dal10-web-1')
  slack.say('U0ANA', 'D0ANA', 'smith-patch prod machines: prod-dal10-web-1 outage:0')
  const raised = await chat.message('D0ANA', /^Change request raised/)
  const [change = ''] = /CHG\d{7}/.exec(raised.text) ?? []
  slack.say('U0ANA', 'D0BO', `smith-status ${change}`)
  await chat.until('all of it', () => slack.in('D0BO').length === 4)
  const texts = slack.in('D0BO').map((message) => message.text)
  t.equal(texts[0], "Master, I'm trying to get patch status from smith instance in dev")
  t.equal(texts[1], `project \`${change}\` not running in smith instance in dev`)
  t.equal(texts[2], "Master, I'm trying to get patch status from smith instance in prod")
  t.match(texts[3], new RegExp(`^Project: ${change} Patch: us-south prod-dal10-web-1`))
})

t.test(
  '[MUL-2] a request goes to the instance that has its machines; on two it is refused; named, it goes there',
  async (t) => {
    const chat = await createChatWorld(t, both)
    const { slack, worlds } = chat
    await worlds['dev']?.machine('dev-dal10-web-1')
    await worlds['prod']?.machine('prod-dal10-web-1')
    const count = async () => {
      const lists = await Promise.all(Object.values(worlds).map((world) => world.call('projects', 'ana')))
      return lists.map((list) => list.body.projects.length)
    }
    slack.say('U0ANA', 'D0ANA', 'smith-patch prod machines: dev-dal10-web-1 prod-dal10-web-1 outage:0')
    const refused = await chat.message('D0ANA', /on several instances/)
    t.match(refused.text, /dev: `dev-dal10-web-1`\nprod: `prod-dal10-web-1`\nNothing was raised/)
    slack.say('U0ANA', 'D0ANA', 'smith-patch prod machines: *-dal10-web-1 outage:0')
    await chat.until(
      'another no',
      () => slack.in('D0ANA').filter((one) => /on several instances/.test(one.text)).length === 2,
    )
    slack.say('U0ANA', 'D0ANA', 'smith-patch prod machines: nothing-1 outage:0')
    await chat.message('D0ANA', /error: [^]*nothing-1/)
    t.same(await count(), [0, 0])
    slack.say('U0ANA', 'D0ANA', 'smith-patch prod machines: dev-dal10-web-1 outage:0')
    await chat.message('D0ANA', /^Change request raised/)
    t.same(await count(), [1, 0])
    slack.say('U0ANA', 'D0BO', 'smith-patch instance:prod prod machines: *-dal10-web-1 outage:0')
    await chat.message('D0BO', /^Change request raised/)
    t.same(await count(), [1, 1])
    slack.say('U0ANA', 'D0BO', 'smith-status instance:nowhere')
    await chat.message('D0BO', /no instance `nowhere`, only `dev`, `prod`/)
  },
)

t.test('[MUL-3] an instance out of reach is named, and never taken as one that does not have it', async (t) => {
  const chat = await createChatWorld(t, both)
  const { slack, worlds } = chat
  await worlds['prod']?.machine('prod-dal10-web-1')
  const change = (await worlds['prod']?.raise('prod machines: prod-dal10-web-1 outage:0')) ?? ''
  await worlds['dev']?.close()
  slack.say('U0ANA', 'D0ANA', `smith-status ${change}`)
  await chat.message('D0ANA', /^smith instance in dev is out of reach, so I can't say whether it is there: /)
  await chat.message('D0ANA', /^Project: CHG/)
  t.notOk(slack.in('D0ANA').some((message) => /not running in smith instance in dev/.test(message.text)))
  slack.say('U0ANA', 'D0ANA', 'smith-patch prod machines: prod-dal10-web-1 outage:0')
  await chat.message('D0ANA', /smith instance in dev is out of reach[^]*Nothing was raised/)
  slack.say('U0ANA', 'D0ANA', `smith-pause ${change}`)
  await chat.message('D0ANA', /It is in prod\. To mean that one: `instance:prod`/)
  t.equal(
    (await worlds['prod']?.call('project', 'ana', { params: { change } }))?.body.status.stop?.code === 'paused',
    false,
  )
  slack.say('U0ANA', 'D0ANA', `smith-pause ${change} instance:prod`)
  await chat.message('D0ANA', /is paused/)
  await chat.until('a word about it', () => /smith instance in dev/.test(chat.life.chat.troubles().join()))
})

t.test('[MUL-1] changes of one number on two instances are told apart', async (t) => {
  const chat = await createChatWorld(t, both)
  const { slack, worlds } = chat
  for (const [name, world] of Object.entries(worlds)) {
    await world.machine(`${name}-dal10-web-1`)
    await world.raise(`prod machines: ${name}-dal10-web-1 outage:0`)
  }
  const change = 'CHG0000001'
  slack.say('U0ANA', 'D0ANA', `smith-cancel ${change}`)
  await chat.message('D0ANA', /is in several instances. Say which is meant: `instance:dev` or `instance:prod`/)
  slack.say('U0ANA', 'D0ANA', `smith-cancel ${change} instance:dev`)
  await chat.message('D0ANA', /is being cancelled/)
  t.equal((await worlds['prod']?.call('project', 'ana', { params: { change } }))?.body.status.state, 'pending')
  t.equal((await worlds['dev']?.call('project', 'ana', { params: { change } }))?.body.status.state, 'cancelled')
})
