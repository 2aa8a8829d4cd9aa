/**
 * A coordinator for the tests of the dashboard: the real driver, interface and page of a checkout, with
 * machines that are rows and sessions, and a browser that stands before it. One of each serves a whole test file.
 */
import { existsSync } from 'node:fs'
import { type Browser, type BrowserContext, type Page, chromium } from 'playwright-core'
import type { Test } from 'tap'
import { openDashboardFiles } from '../../coordinator/dashboard-files.ts'
import { SETTINGS } from '../coordinator/harness.ts'
import { type RunningMachine, withRuns } from '../api/runs.ts'
import { type World, type WorldOptions, createWorld } from '../api/world.ts'

/** Debian's; Ubuntu's is a snap, which a test can't start. */
const CHROMIUM = '/usr/bin/chromium'
const FLAGS = ['--no-sandbox', '--disable-background-networking', '--no-first-run', '--disable-gpu']

/** Why there can be no browser, null when there can. */
export const noBrowser: string | null = existsSync(CHROMIUM)
  ? null
  : `there is no ${CHROMIUM} (Debian package chromium)`

export type WebSite = {
  readonly world: World
  readonly browser: Browser
  readonly url: string
  readonly add: (name: string) => Promise<RunningMachine>
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
