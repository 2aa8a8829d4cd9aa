/**
 * A coordinator for the tests of the dashboard: the real driver, interface and page of a checkout, with
 * machines that are rows and sessions, and a browser that stands before it. One of each serves a whole test file.
 */
import { existsSync } from 'node:fs'
import { type Browser, type BrowserContext, type Page, chromium } from 'playwright-core'
import type { Test } from 'tap'
import { openDashboardFiles } from '../../coordinator/dashboard-files.ts'
import type { Result, RunRecord, Step } from '../../protocol/files.ts'
import { ORDER_STEPS, resultRecord } from '../coordinator/agent.ts'
import { SETTINGS } from '../coordinator/harness.ts'
import { type World, type WorldOptions, createWorld } from '../api/world.ts'

/** Debian's; Ubuntu's is a snap, which a test can't start. */
const CHROMIUM = '/usr/bin/chromium'
const FLAGS = ['--no-sandbox', '--disable-background-networking', '--no-first-run', '--disable-gpu']

/** Why there can be no browser, null when there can. */
export const noBrowser: string | null = existsSync(CHROMIUM)
  ? null
  : `there is no ${CHROMIUM} (Debian package chromium)`

export type WebMachine = Awaited<ReturnType<World['machine']>> & {
  /** Says what a run printed and did, of the newest grant; the records are numbered on. */
  readonly records: (...records: readonly Loose[]) => Promise<void>
  readonly succeed: () => Promise<void>
  readonly fail: (fields: Partial<Result>, lines?: readonly string[]) => Promise<void>
}
type Loose = Readonly<Record<string, unknown>>

export type WebSite = {
  readonly world: World
  readonly browser: Browser
  readonly url: string
  readonly add: (name: string) => Promise<WebMachine>
  /** A page of its own profile, logged in as this person. */
  readonly open: (person: string, options?: Parameters<Browser['newContext']>[0]) => Promise<Page>
}

export async function createWebSite(t: Test, options: WorldOptions = {}): Promise<WebSite> {
  const world = await createWorld(t, {
    settings: { limits: { ...SETTINGS.limits, machinesPerRequestMax: 5000 } },
    ...options,
    ports: (parts) => ({ dashboard: openDashboardFiles(), ...options.ports?.(parts) }),
  })
  const browser = await chromium.launch({ executablePath: CHROMIUM, args: FLAGS })
  t.teardown(() => browser.close())
  const url = `https://127.0.0.1:${world.port}`
  return {
    world,
    browser,
    url,
    add: async (name) => withRuns(world, await world.machine(name)),
    open: async (person, contextOptions) => {
      const context = await browser.newContext({ ignoreHTTPSErrors: true, ...contextOptions })
      const page = await context.newPage()
      await logIn(page, url, world.tokens[person] ?? '')
      return page
    },
  }
}

export async function logIn(page: Page, url: string, token: string): Promise<void> {
  await page.goto(url)
  await page.getByLabel('Your personal token').fill(token)
  await page.getByRole('button', { name: 'Log in' }).click()
  await page.getByRole('heading', { level: 1, name: 'What goes now' }).waitFor()
}

export function contextOf(page: Page): BrowserContext {
  return page.context()
}

function withRuns(world: World, machine: Awaited<ReturnType<World['machine']>>): WebMachine {
  const sent = new Map<string, number>()
  const records = async (...given: readonly Loose[]) => {
    const order = machine.grants.at(-1)?.order ?? ''
    const from = (sent.get(order) ?? 0) + 1
    sent.set(order, from + given.length - 1)
    const numbered = given.map((one, index) => ({ n: from + index, at: world.driver.now(), ...one }) as RunRecord)
    await machine.say({ t: 'records', order, records: numbered })
  }
  const steps = (...names: readonly Step[]) => records(...names.map((step) => ({ type: 'step', step })))
  const result = async (outcome: Result['outcome'], fields: Partial<Result>) => {
    const { n: _, at: __, ...rest } = resultRecord(0, outcome, fields)
    await records(rest)
  }
  return {
    ...machine,
    records,
    succeed: async () => {
      await steps(...ORDER_STEPS)
      await records(line('Setting up hello (2.0) ...', 0))
      await steps('post-checks', 'verify')
      await result('succeeded', {})
    },
    fail: async (fields, lines = []) => {
      await steps(...ORDER_STEPS)
      for (const [index, text] of lines.entries()) await records(line(text, index))
      await result('failed', { latched: true, ...fields })
    },
  }
}

export function line(text: string, offset: number): Loose {
  return { type: 'line', step: 'install', offset, text: `${text}\n` }
}
