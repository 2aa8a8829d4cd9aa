/**
 * The bot is killed before each of its writes to the ledger in turn, which is also right after whatever it did in
 * Slack and could not note, and started anew with what was on disk. However often: every message is there, and once.
 */
import t from 'tap'
import type { Posted } from './standin.ts'
import { type ChatWorld, createChatWorld, runOf } from './world.ts'

const MACHINES = ['prod-dal10-web-1', 'prod-dal10-web-2']
const CHANGE = /CHG\d{7}/

/** From the request over a confirmation, an approval, a failure and a skip to the end. */
async function conversation(chat: ChatWorld): Promise<void> {
  const { slack, world } = chat
  const first = await world.machine(MACHINES[0] ?? '')
  const second = await world.machine(MACHINES[1] ?? '')
  slack.say('U0ANA', 'D0ANA', `smith-patch prod machines: ${MACHINES.join(' ')} outage:0`)
  slack.click('U0ANA', await button(chat, 'smith_confirm'), 'smith_confirm')
  slack.click('U0BO', await button(chat, 'smith_approve'), 'smith_approve')
  await chat.until('the grant', () => first.grants.length > 0)
  await runOf(first, 'failed')
  const trouble = await chat.message('D0ANA', /needs you/)
  const [change = ''] = CHANGE.exec(trouble.text) ?? []
  slack.say('U0ANA', 'D0ANA', `smith-skip ${change} ${MACHINES[0]} its disk is broken`)
  await chat.message('D0ANA', /is skipped|I was interrupted/)
  await world.command({ type: 'skip', change, machine: MACHINES[0] ?? '', reason: 'told at the desk' }, CY)
  await world.command({ type: 'resume', change, reason: '' }, CY)
  await chat.until('the second grant', () => second.grants.length > 0)
  await runOf(second, 'succeeded')
  await chat.message('D0ANA', /is `complete`|is `failed`/)
  await chat.until('quiet', () => chat.life.chat.messages.waiting() === 0)
}

const CY = { kind: 'person', name: 'cy', roles: ['admin'] } as const

async function button(chat: ChatWorld, action: string): Promise<Posted> {
  const has = (message: Posted) => JSON.stringify(message.blocks ?? []).includes(action)
  await chat.until(`the button ${action}`, () => chat.slack.posted.some(has))
  return chat.slack.posted.find(has) as Posted
}

/** What stands there at the end, without what differs from one run to the next. */
function picture(chat: ChatWorld): string[] {
  return chat.slack.posted
    .filter((message) => !/I was interrupted|is skipped/.test(message.text))
    .map(
      ({ channel, thread, text, file }) =>
        `${channel} ${thread === null ? '-' : 'thread'} ${plainText(file?.title ?? text)}`,
    )
    .toSorted()
}

const plainText = (text: string) =>
  text
    .replace(/<!date[^>]*>/g, 'TIME')
    .replace(/CHG\d{7}/g, 'CHG')
    .replace(/[0-9a-f]{64}/g, 'DIGEST')
    .replace(/[0-9a-f]{8}\.log/g, 'ORDER.log')
    .replace(/after \d+s/g, 'after SPAN')
    .replace(/for \d+s/g, 'for SPAN')

const options = { config: { confirmAbove: 1 }, startsLater: true } as const

t.test('[BOT-12] killed before any write at all, the bot neither forgets a message nor says one twice', async (t) => {
  const whole = await createChatWorld(t, options)
  whole.life = whole.live()
  await conversation(whole)
  const wanted = picture(whole)
  const writes = whole.puts()
  t.ok(writes > 25, `there are ${writes} writes to be killed before`)
  t.ok(wanted.length > 15)
  // Each place is a world of its own; all that differs is when the first life ends.
  const places = Array.from({ length: writes }, (_, index) => index + 1)
  const tryNext = async () => {
    for (let dieAt = places.shift(); dieAt !== undefined; dieAt = places.shift()) {
      const chat = await createChatWorld(t, options)
      chat.life = chat.live(dieAt)
      const reborn = rebirth(chat)
      await conversation(chat)
      await chat.until(`all of it, killed before write ${dieAt}`, () => picture(chat).length >= wanted.length)
      await chat.until(
        'its last words',
        () => picture(chat).join() === wanted.join() || picture(chat).length > wanted.length,
      )
      await chat.until('quiet', () => chat.life.chat.messages.waiting() === 0)
      reborn.end()
      t.same(picture(chat), wanted, `killed before write ${dieAt}`)
      chat.life.kill()
    }
  }
  await Promise.all(Array.from({ length: 6 }, tryNext))
})

/** Starts another life as soon as one has died. */
function rebirth(chat: ChatWorld): { readonly end: () => void } {
  const timer = setInterval(() => {
    if (!chat.slack.badTokens.has(chat.life.botToken)) return
    chat.life = chat.live()
  }, 2)
  return { end: () => clearInterval(timer) }
}
